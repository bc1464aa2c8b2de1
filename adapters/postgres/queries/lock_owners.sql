-- Before owners are configured: all of them, in the order in which claims lock them.
SELECT FROM owners ORDER BY owner_service FOR UPDATE
