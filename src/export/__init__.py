"""Files for deployment. Each one is read back and compared with the network before it takes its name."""
