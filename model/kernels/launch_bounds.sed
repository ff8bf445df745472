# What __launch_bounds__ says in CUDA, and C has no attribute for: threads of a CTA (SPTX_CTA_THREADS), and how
# many CTAs a multiprocessor should hold at a time, which limits a thread's registers.
/^\.visible \.entry/,/^{/ s/^).*/)\n.maxntid 128, 1, 1\n.minnctapersm 6/
/^\.visible \.entry sptx_norm_backward/,/^{/ s/minnctapersm 6/minnctapersm 3/
