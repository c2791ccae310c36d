"""How stages become a run: configuration, inputs of the rules, requests, plans, job records."""
