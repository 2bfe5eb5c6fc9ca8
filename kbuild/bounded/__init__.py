"""Answers of servers that come to an end, whatever a server sends: so many bytes, unpacked, and so many seconds."""
