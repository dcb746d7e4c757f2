"""What there is to know about a GPU before anything is made faster on it. Needs torch, triton and timm."""
