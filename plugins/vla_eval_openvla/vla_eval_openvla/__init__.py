"""The simulated robots of openvla_ros in vla-eval: ``vla_eval_openvla.benchmark:SimulatedRobotBenchmark``."""
