"""What a call answers; Python raises the error that each stands for."""

comptime MOVES = -1
"""Done, and there are pages to move."""
comptime OK = 0
"""Done."""
comptime INSUFFICIENT_PAGES = 1
"""Details: pages wanted, pages free."""
comptime UNKNOWN_SEQUENCE = 2
"""Detail: the sequence that is not claimed."""
comptime BEHIND_COMMITTED = 3
"""Details: tokens committed, tokens processed."""
comptime BEYOND_PAGES = 4
"""Details: tokens that the pages take, tokens wanted."""
comptime BEYOND_TOKENS = 5
"""Details: tokens given, tokens processed."""
comptime TOKEN_OUT_OF_RANGE = 6
"""A token id does not fit 32 bits."""
comptime NO_SEQUENCE_LEFT = 7
"""Details: sequences wanted, sequences free."""
comptime OTHER_CONTENT = 8
"""A page is findable with other tokens than those given."""
comptime TOO_FEW_COLUMNS = 9
"""Details: columns wanted, columns there."""
comptime TOO_MANY_ROWS = 10
"""Details: rows wanted, rows that fit."""
comptime SHARED_WINDOW = 11
"""Detail: a column of the window whose page others may read."""
comptime UNREADABLE = 12
"""What came is not what is read as it is; Python makes that of it, or raises."""
