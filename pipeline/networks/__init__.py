"""The networks as data: layers, parameters, multiply-adds and memory, known without torch."""
