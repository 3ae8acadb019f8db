"""`skipcache compare`: two folders of anybody's samples, paired by name.

A sample is a picture, (H, W, C), or a video, (frames, H, W, C): uint8, or float32 in [0, 1]. One pair is read at once.
"""
