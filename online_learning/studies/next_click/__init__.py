"""Which article does a reader click next? An online learner on a log of news clicks, judged click by click."""
