"""What methods share: exact geometry of balls in boxes, loops, maps, linear bounds."""
