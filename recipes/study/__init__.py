"""Studies: one claim about training, as arms that differ in one setting, run with several seeds and compared."""
