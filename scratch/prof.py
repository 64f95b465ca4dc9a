import time, numpy as np, sys
from benchmarks.search_ways import *
from benchmarks.search_ways import product
rng=np.random.default_rng(0)
t=rng.standard_normal((1000,768),dtype=np.float32); s=rng.standard_normal((100_000,768),dtype=np.float32)
t/=np.linalg.norm(t,axis=1,keepdims=True); s/=np.linalg.norm(s,axis=1,keepdims=True)
from lookalike import nearest_neighbors
w=product(t,s,len(s))
nearest_neighbors(t[:64],s[:4096],5,'cosine'); w()
import lookalike.neighbors.finder as F, lookalike.neighbors.search as S
acc={}
def wrap(o,n):
    f=getattr(o,n)
    def g(*a,**k):
        t0=time.perf_counter(); r=f(*a,**k); acc[n]=acc.get(n,0)+time.perf_counter()-t0; return r
    setattr(o,n,g)
if len(sys.argv)>1:
    for o,n in ((F.CpuFinder,'_scores'),(F.CpuFinder,'_collect'),(F.CpuFinder,'_settle'),(S,'check_values'),(S,'_zeros'),(F.CpuFinder,'see')): wrap(o,n)
    m=F.METRICS['cosine']; 
    for n in ('prepare',): 
        f=m.prepare if hasattr(m,'prepare') else None
rs=[]
for i in range(7):
    t0=time.perf_counter(); w(); t1=time.perf_counter(); nearest_neighbors(t,s,5,'cosine'); t2=time.perf_counter()
    rs.append((t1-t0,t2-t1)); 
import statistics as st
print('product',st.median(a for a,b in rs),'ours',st.median(b for a,b in rs),'ratio',st.median(b/a for a,b in rs)); print({k:v/7 for k,v in acc.items()})
