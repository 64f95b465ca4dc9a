import time, numpy as np, sys, statistics as st
from benchmarks.search_ways import *
from benchmarks.search_ways import product, _torch
import faiss
rng=np.random.default_rng(0)
t=rng.standard_normal((1000,768),dtype=np.float32); s=rng.standard_normal((100_000,768),dtype=np.float32)
t/=np.linalg.norm(t,axis=1,keepdims=True); s/=np.linalg.norm(s,axis=1,keepdims=True)
from lookalike import nearest_neighbors
w=product(t,s,len(s))
from sklearn.neighbors import NearestNeighbors
fit=NearestNeighbors(n_neighbors=5,algorithm="brute",metric="cosine").fit(s)
extra={'none':lambda:None,'faiss':lambda:faiss.knn(t,s,5,metric=faiss.METRIC_INNER_PRODUCT),'torch':lambda:_torch(t,s,5,'cosine'),'sk':lambda:fit.kneighbors(t,return_distance=False)}
nearest_neighbors(t[:64],s[:4096],5,'cosine'); w()
for name in ('none','faiss','torch','sk','none'):
    rs=[]
    for i in range(4):
        extra[name](); t0=time.perf_counter(); w(); t1=time.perf_counter(); nearest_neighbors(t,s,5,'cosine'); t2=time.perf_counter()
        rs.append((t1-t0,t2-t1))
    print(name,'product',round(st.median(a for a,b in rs),3),'ours',round(st.median(b for a,b in rs),3),'ratio',round(st.median(b/a for a,b in rs),3))
