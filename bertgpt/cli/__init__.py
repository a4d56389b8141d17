"""The Typer app, help, config files, exit codes and the display of errors. No work is done here."""
