"""YOLOv8 of mindyolo, pruned while it trains on data in the format of COCO."""
