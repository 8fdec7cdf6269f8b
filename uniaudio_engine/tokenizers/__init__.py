"""What stands between a user's text or sound and token ids: captions,
semantic units, optional encoders.
"""
