"""The long study: experiments that the campaign trains and measures, and tables of their results."""
