//! Whole small programs, each runnable by one command.
