import time, numpy as np, hashlib
from PIL import Image
import pyarrow.parquet as pq
from lookalike.workflow.barring.pictures import look
from lookalike.images.decode import decode, DecodeSettings
paths=pq.read_table('/tmp/w/spd/pool.parquet').column('filepath').to_pylist()[:300]
datas=[open(p,'rb').read() for p in paths]
ds=DecodeSettings('ignore','clip',178956970)
def t(n,f):
    b=9
    for _ in range(3):
        t0=time.perf_counter(); f(); b=min(b,time.perf_counter()-t0)
    print(n, round(b/300*1e3,3),'ms')
t('read',lambda:[open(p,'rb').read() for p in paths])
t('decode',lambda:[decode(d,ds) for d in datas])
ims=[decode(d,ds).image for d in datas]; print(ims[0].mode, ims[0].size)
t('look',lambda:[look(i) for i in ims])
t('rgb',lambda:[i.convert('RGB') for i in ims])
rgb=[i.convert('RGB') for i in ims]
t('tobytes',lambda:[i.tobytes() for i in rgb])
by=[i.tobytes() for i in rgb]
t('sha',lambda:[hashlib.sha256(b).digest() for b in by])
t('resize',lambda:[i.resize((64,64),Image.Resampling.LANCZOS) for i in ims])
t('convL',lambda:[i.convert('L') for i in ims])
