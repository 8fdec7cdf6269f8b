"""The command `uniaudio`: parser and manners in `main`, what the subcommands do in the rest."""
