"""Which code and which packages a model needs: what travels, what an index has to bring."""
