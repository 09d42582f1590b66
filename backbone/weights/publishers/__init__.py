"""Where published weights come from: for each publisher its files, its cache and its way to fetch; free of torch."""
