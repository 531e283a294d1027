"""Names that crisp_py imports from tf2_ros, of which there is no wheel; nothing here is called.

crisp_py listens to tf only where its configuration says ``use_tf_pose``.
"""

from geometry_msgs.msg import TransformStamped

__all__ = ["TransformStamped"]
