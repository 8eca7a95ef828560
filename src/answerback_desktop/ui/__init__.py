"""The widgets. They show what the view models say and pass on what the user does; they decide nothing."""
