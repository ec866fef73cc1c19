"""What the tests of the command line share."""

# Flags of a run that takes a moment.
FAST = ("--model=vgg16", "--size=48", "--steps=2", "--style_layers=block1_conv1,block2_conv1")
FAST += ("--content_layers=block2_conv2",)
