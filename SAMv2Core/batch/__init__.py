"""One command for every row of a table: the table, the journal of what is done, who runs the rows, the results."""
