#!/usr/bin/env bash
# ros-rclpy 9.1.2 with ros-fastdds 3.2.3 (wheels from PyPI, Kilted): rcl knows SROS 2 and finds the folder of an
# enclave, but Fast DDS was built without its security plug-ins. With ROS_SECURITY_STRATEGY=Permissive, which is
# to go on without security where there are no keys, a node cannot be made either; without the folder it can.
#
# Seen on 2026-11-30:
#   no enclave, Permissive:  made
#   an enclave, Permissive:  This Fast DDS version doesn't have the security libraries
#   an enclave, Enforce:     This Fast DDS version doesn't have the security libraries
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ros-rclpy[fastrtps]==9.1.2" ros-fastdds==3.2.3
cat > "$folder/make_node.py" <<'PYTHON'
import sys

import rclpy

try:
    rclpy.init(args=["--ros-args", "--enclave", "/talker", "--log-level", "fatal"])
    rclpy.create_node("talker")
    print("made")
except Exception as error:
    print(str(error).removeprefix("error creating node: ").splitlines()[0])
sys.stdout.flush()
PYTHON
ask() {
  mkdir -p "$folder/$1"
  ROS_SECURITY_ENABLE=true ROS_SECURITY_KEYSTORE="$folder/store" ROS_SECURITY_STRATEGY="$2" ROS_DOMAIN_ID=97 \
    "$folder/venv/bin/python" -W ignore "$folder/make_node.py" 2> "$folder/errors.txt" | tail -1
}
none=$(ask store/enclaves Permissive)
permissive=$(ask store/enclaves/talker Permissive)
enforce=$(ask store/enclaves/talker Enforce)
printf 'no enclave, Permissive:  %s\nan enclave, Permissive:  %s\nan enclave, Enforce:     %s\n' \
  "$none" "$permissive" "$enforce"
[ "$none" = made ] || { echo "the behaviour has changed: no node without an enclave"; exit 1; }
case "$permissive$enforce" in
  *security*security*) ;;
  *) echo "the behaviour has changed: the wheels have security"; exit 1 ;;
esac
