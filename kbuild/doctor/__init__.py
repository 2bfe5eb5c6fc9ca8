"""F7: what kbuild needs of the machine, the project and the servers, looked at before it is needed."""
