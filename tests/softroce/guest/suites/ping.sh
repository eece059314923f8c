# shellcheck shell=dash
# Queue pairs, completions, registered memory and reads of the verbs binding, without a transport on
# top: the example says what it has sent, and counts the device's packets itself.
# limit: 60
# cargo: build -p pagewire-transport --example verbs_ping

verbs_ping "$ADDRESS" rxe0
same "verbs_ping_ends_well" $? 0
