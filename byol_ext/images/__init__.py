"""Images: sources, batched augmentation on the device, encoders, and the ClutterDigits benchmark."""
