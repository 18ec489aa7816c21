"""Suite + model -> answers -> scores -> leaderboard."""
