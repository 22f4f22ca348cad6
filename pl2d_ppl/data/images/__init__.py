"""Images: sources, augmentation on the host and on the device, features."""
