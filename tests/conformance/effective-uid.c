/* Tells its effective user ID, to show whether a set-user-ID file had an effect. In: nothing. Out: one line. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
  printf("Effective uid: %u\n", geteuid());
  return 0;
}
