"""How the stages become a run: configuration, files of the rules, requests, plans, job records."""
