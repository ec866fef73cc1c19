"""Pretrained weights of VGG16 and VGG19: loading, converting, downloading.

The bundled files are in the folder `weights/` of the checkout.
"""
