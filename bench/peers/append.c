// The least that saving messages can cost: one write and fdatasync for every BATCH of them, to a file that grows.
//   append FILE MESSAGES SIZE BATCH
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  long messages = atol(argv[2]), size = atol(argv[3]), batch = atol(argv[4]);
  size_t length = size * batch;
  char *buffer = malloc(length);
  int file = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (file < 0 || !buffer) return perror(argv[1]), 1;
  memset(buffer, 'x', length);
  for (long saved = 0; saved < messages; saved += batch)
    if (write(file, buffer, length) != (ssize_t)length || fdatasync(file)) return perror("write"), 1;
  printf("%ld messages\n", messages);
}
