"""Pretrained weights of VGG16 and VGG19: loading, converting, fetching. The files are in the
checkout's folder `weights/`."""
