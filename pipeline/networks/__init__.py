"""The networks as data: layers, parameters, multiply-adds and memory, without torch."""
