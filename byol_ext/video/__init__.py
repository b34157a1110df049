"""Video: decoding, readers, clips, augmentation on the device, temporal derivatives, encoders."""
