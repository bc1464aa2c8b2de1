"""Asks the API whether it is ready, until it is or the time is up."""

import os
import sys
import time
import urllib.request

url = os.environ["AI_SERVICE_URL"] + "/readyz"
until = time.monotonic() + float(os.environ["TEST_TIMEOUT"])
while True:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            print(answer.read().decode())
            sys.exit(0)
    except OSError as trouble:
        if time.monotonic() > until:
            sys.exit(f"{url}: {trouble}")
        time.sleep(1)
