"""The engines that are timed side by side, each in a process of its own (their thread pools spin,
and would disturb each other).
"""
