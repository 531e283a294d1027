"""What every format shares: sources of episodes, their columns, images and videos."""
