"""What the references are trained on: digits, scenes, videos. Drawn or installed, so that nothing is downloaded."""
