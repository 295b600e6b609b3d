"""Between ROS messages and arrays: codecs, clocks, quality of service, parameters, lockstep."""
