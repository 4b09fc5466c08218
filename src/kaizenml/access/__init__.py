"""Who may ask: API tokens with scopes and rates. The data plane reads them from a small file and needs no database for it."""
