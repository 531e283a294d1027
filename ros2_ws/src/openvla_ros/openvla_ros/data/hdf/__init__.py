"""HDF5 files of simulators and robots, recognised by their contents; robomimic's layout is written."""
