"""The engines that are timed side by side, each in its own process: their thread pools spin and
would disturb each other.
"""
