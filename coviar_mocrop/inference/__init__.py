"""Using trained streams: testing lists, predicting videos, export."""
