#include "replay/program/command.h"

int main(int argc, char** argv) { return kvgrind::program::run_program(argc, argv); }
