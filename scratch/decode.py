import numpy as np, pyarrow as pa, pyarrow.parquet as pq, time, os, sys, json, tempfile, pathlib
from concurrent.futures import ThreadPoolExecutor
folder=pathlib.Path(tempfile.mkdtemp()); rng=np.random.default_rng(0); n=20000; d=768
v=rng.standard_normal((n,d),dtype=np.float32)
offs=np.arange(0,n*d+1,d,dtype=np.int32)
lst=pa.ListArray.from_arrays(pa.array(offs),pa.array(v.reshape(-1)))
for i in range(16):
    pq.write_table(pa.table([lst],['embedding']),folder/f'{i}.parquet',row_group_size=1000,use_dictionary=False,compression='zstd',use_byte_stream_split=['embedding.list.element'])
def one(a):
    f,g=a
    with pq.ParquetFile(folder/f'{f}.parquet',pre_buffer=False) as r: t=r.read_row_group(g,use_threads=False)
    return t.num_rows
jobs=[(f,g) for f in range(16) for g in range(20)]
total=16*v.nbytes
for pool in ('mimalloc','jemalloc','system'):
    try: pa.set_memory_pool({'mimalloc':pa.mimalloc_memory_pool,'jemalloc':pa.jemalloc_memory_pool,'system':pa.system_memory_pool}[pool]())
    except Exception as e: print(pool,e); continue
    for th in (1,2,4,8,16):
        use=jobs[:len(jobs)//4] if th==1 else jobs
        with ThreadPoolExecutor(th) as ex:
            list(ex.map(one,use[:8])); t0=time.time(); c0=time.process_time(); list(ex.map(one,use)); t=time.time()-t0; c=time.process_time()-c0
        print(pool,th,'threads',round(total*len(use)/len(jobs)/t/1e9,2),'GB/s; processor s a GB',round(c/(total*len(use)/len(jobs)/1e9),2),flush=True)
