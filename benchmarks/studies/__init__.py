"""Two studies behind the design: do skip branches help (`evidence`), and which features change little (`analyze`)."""
