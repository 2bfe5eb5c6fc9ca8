"""The server: sockets, processes, the app, and who watches over it."""
