"""The listener that takes what clients send. It knows the words of broker and blobs, no engine and no store."""
