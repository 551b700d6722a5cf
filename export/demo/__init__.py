"""The demo model: a small FlashVSR trained here, from still images, so that the program works without the weights."""
