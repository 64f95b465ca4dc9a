import time, numpy as np, sys
import faiss, torch, sklearn.neighbors
exec(open('scratch/prof.py').read())
import lookalike.neighbors.threads as T
for i in range(3):
    t0=time.perf_counter()
    with T.one_blas_thread(): pass
    print('one_blas', time.perf_counter()-t0)
